import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.cards.lines import Card, Skipped
from ipls.contacts.cards.reading import read_card
from ipls.contacts.cards.tables import NO_CONTACT, read_table, write_table


def made(table: str | bytes) -> list[list[str]]:
    """The lines of each row's card, without those that every card has."""
    found = list(read_table(table.encode() if isinstance(table, str) else table))
    assert all(isinstance(each, Card) for each in found), found
    return [each.data.decode().split("\r\n")[2:-1] for each in found if isinstance(each, Card)]


GOOGLE = (
    "First Name,Middle Name,Last Name,Name Prefix,Name Suffix,Nickname,File As,Organization Name,Organization Title,"
    "Organization Department,Birthday,Notes,Labels,E-mail 1 - Label,E-mail 1 - Value,Phone 1 - Label,Phone 1 - Value,"
    "Address 1 - Label,Address 1 - Formatted,Address 1 - Street,Address 1 - City,Address 1 - PO Box,"
    "Address 1 - Region,Address 1 - Postal Code,Address 1 - Country,Website 1 - Label,Website 1 - Value,Shoe size\r\n"
    'Ada,Noel,King,Lady,Jr.,Adi,King,"Engines, Ltd",Countess,Sums,1815-12-10,"two\nlines",* myContacts ::: Family,'
    "* Work,ada@example.org ::: a@example.org,Mobile,+1 202 555 0100,Home,x,1 High St,London,7,Greater London,W1,UK,"
    "Profile,https://example.org,38\r\n"
)


def test_google_s_table():
    assert made(GOOGLE) == [
        [
            "FN:Lady Ada Noel King Jr.",
            "N:King;Ada;Noel;Lady;Jr.",
            "ORG:Engines\\, Ltd;Sums",
            "NICKNAME:Adi",
            "TITLE:Countess",
            "BDAY:1815-12-10",
            "EMAIL;TYPE=WORK:ada@example.org",
            "EMAIL;TYPE=WORK:a@example.org",
            "TEL;TYPE=CELL:+1 202 555 0100",
            "URL:https://example.org",
            "ADR:7;;1 High St;London;Greater London;W1;UK",
            "NOTE:two\\nlines\\nShoe size: 38",
            "CATEGORIES:myContacts,Family",
        ]
    ]


def test_outlook_s_table():
    table = (
        '"Title","First Name","Last Name","Company","Business Street","Business City","Business Fax","Home Phone 2",'
        '"Birthday","E-mail Address","E-mail Type","E-mail 2 Address","Priority","Private"\r\n'
        '"Dr.","Ren\xe9","M\xfcller","K\xe4se","Weg 1","Bonn","+49 1","+49 2","0/0/00","r@example.org","SMTP",'
        '"s@example.org","Normal","False"\r\n'
    )
    assert made(table.encode("cp1252")) == [
        [
            *(
                "FN:Dr. René Müller",
                "N:Müller;René;;Dr.;",
                "ORG:Käse",
                "TEL;TYPE=WORK,FAX:+49 1",
                "TEL;TYPE=HOME:+49 2",
            ),
            *("EMAIL:r@example.org", "EMAIL:s@example.org", "ADR;TYPE=WORK:;;Weg 1;Bonn;;;"),
        ]
    ]


SAME = (
    "FN:Dr. Ada Noel King",
    "N:King;Ada;Noel;Dr.;",
    "ORG:Engines;Sums",
    "TITLE:Head",
    "BDAY:1815-12-10",
    "TEL;TYPE=CELL:1",
    "TEL;TYPE=WORK:2",
    "TEL;TYPE=WORK:3",
    "TEL;TYPE=HOME:4",
    "TEL;TYPE=WORK,FAX:5",
    "EMAIL:a@example.org",
    "EMAIL:b@example.org",
    "ADR;TYPE=WORK:;;High St\\, Back door;London;;W1;",
    "NOTE:Note\\nOffice: 7",
    "CATEGORIES:Family",
)
SAID = (
    *("Dr.", "Ada", "Noel", "King", "Engines", "Sums", "Head", "1815-12-10", "1", "2", "3", "4", "5"),
    *("a@example.org", "SMTP", "Ada (a@example.org)", "b@example.org", "SMTP"),
    *("High St", "Back door", "London", "W1", "Note", "Family", "Normal", "7"),
)


@pytest.mark.parametrize(
    "headings",
    [
        "Title;First Name;Middle Name;Last Name;Company;Department;Job Title;Birthday;Mobile Phone;Business Phone;"
        "Business Phone 2;Home Phone;Business Fax;E-mail Address;E-mail Type;E-mail Display Name;E-mail 2 Address;"
        "E-mail 2 Type;Business Street;Business Street 2;Business City;Business Postal Code;Notes;Categories;Priority",
        "Anrede;Vorname;Weitere Vornamen;Nachname;Firma;Abteilung;Position;Geburtstag;Mobiltelefon;"
        "Telefon geschäftlich;Telefon geschäftlich 2;Telefon privat;Fax geschäftlich;E-Mail-Adresse;E-Mail-Typ;"
        "E-Mail: Angezeigter Name;E-Mail 2: Adresse;E-Mail 2: Typ;Straße geschäftlich;Straße geschäftlich 2;"
        "Ort geschäftlich;Postleitzahl geschäftlich;Notizen;Kategorien;Priorität",
        "Titre;Prénom;Deuxième prénom;Nom;Société;Service;Titre;Anniversaire;Tél. mobile;Téléphone (bureau);"
        "Téléphone 2 (bureau);Téléphone (domicile);Télécopie (bureau);Adresse de messagerie;Type de messagerie;"
        "Nom complet de l'adresse de messagerie;Adresse de messagerie 2;Type de messagerie 2;Rue (bureau);"
        "Rue (bureau) 2;Ville (bureau);Code postal (bureau);Notes;Catégories;Priorité",
        # Spanish Outlook leaves several in English.
        "Title;Nombre;Segundo nombre;Apellidos;Organización;Department;Puesto;Birthday;Mobile Phone;"
        "Teléfono del trabajo;Business Phone 2;Particular;Business Fax;E-mail Address;E-mail Type;"
        "Nombre de pantalla de correo electrónico;Dirección de correo electrónico 2;Tipo de correo electrónico 2;"
        "Calle del trabajo;Calle del trabajo 2;Ciudad de trabajo;Código postal del trabajo;Notes;Categorías;Prioridad",
        "Titolo;Nome;Secondo nome;Cognome;Società;Reparto;Posizione;Compleanno;Cellulare;Ufficio;Ufficio 2;Abitazione;"
        "Fax (uff.);Indirizzo posta elettronica;Tipo posta elettronica;Nome visualizzato posta elettronica;"
        "Indirizzo posta elettronica 2;Tipo posta elettronica 2;Via (uff.);Via (uff.) 2;Città (uff.);CAP (uff.);Notes;"
        "Categorie;Priorità",
        "Título;Primeiro nome;Outros nomes/apelidos;Apelido;Empresa;Departamento;Cargo;Data de nascimento;Telemóvel;"
        "Telefone da empresa;2º telefone da empresa;Telefone da residência;Fax da empresa;"
        "Endereço de correio electrónico;Tipo de correio electrónico;Nome a apresentar para o correio electrónico;"
        "Endereço do correio electrónico 2;Tipo de correio electrónico 2;Rua da empresa;Rua da empresa 2;"
        "Localidade da empresa;Código postal da empresa;Notas;Categorias;Prioridade",
        "Tratamento;Primeiro nome;Segundo nome;Sobrenome;Empresa;Departamento;Cargo;Birthday;Telefone celular;"
        "Telefone comercial;Telefone comercial 2;Telefone residencial;Fax comercial;E-mail Address;Tipo de email;"
        "Nome para exibição do email;Endereço de email 2;Tipo de email 2;Business Street;Rua do endereço comercial 2;"
        "Business City;Business Postal Code;Anotações;Categorias;Prioridade",
        "Titel;Voornaam;Middelste naam;Achternaam;Bedrijf;Afdeling;Functie;Verjaardag;Mobiele telefoon;"
        "Telefoon op werk;Telefoon op werk 2;Telefoon thuis;Fax op werk;E-mailadres;E-mailtype;"
        "Weergavenaam voor e-mail;E-mailadres 2;E-mailtype 2;Werkadres, straat;Werkadres 2, straat;Werkadres, plaats;"
        "Werkadres, postcode;Notities;Categorieën;Prioriteit",
    ],
)
def test_outlook_s_table_in_each_language_gives_the_same_card(headings: str):
    assert made(f"{headings};Office\n{';'.join(SAID)}\n".encode("cp1252")) == [list(SAME)]


def test_nothing_of_a_row_is_lost():
    """What has no heading, an unknown one, or the second of what a card has one of is in the note."""
    table = "Vorname,Company,Firma,Schuhgröße,\nAda,Engines,Sums,38,alone,beyond\n"
    assert made(table) == [["FN:Ada", "N:;Ada;;;", "ORG:Engines", "NOTE:Firma: Sums\\nSchuhgröße: 38\\nalone\\nbeyond"]]


def test_thunderbird_s_table():
    table = (
        "First Name,Last Name,Display Name,Primary Email,Secondary Email,Work Phone,Fax Number,Pager Number,"
        "Mobile Number,Home Address,Home City,Home ZipCode\nA,B,A. B.,a@example.org,b@example.org,1,2,3,4,S,C,Z\n"
    )
    assert made(table) == [
        [
            *("FN:A. B.", "N:B;A;;;", "EMAIL;TYPE=PREF:a@example.org", "EMAIL:b@example.org", "TEL;TYPE=WORK:1"),
            *("TEL;TYPE=FAX:2", "TEL;TYPE=PAGER:3", "TEL;TYPE=CELL:4", "ADR;TYPE=HOME:;;S;C;;Z;"),
        ]
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
def test_a_spreadsheet_s_table_in_its_ways(delimiter: str, encoding: str, newline: str):
    rows = ["name", "Phone"], ['"Næss, Ida"', '"=""0770 01"""'], ["Odd", "'0044"], ["", ""]
    table = newline.join(delimiter.join(row) for row in rows)
    assert made(table.encode(encoding)) == [
        ["FN:Næss\\, Ida", "N:;Næss\\, Ida;;;", "TEL:0770 01"],
        ["FN:Odd", "N:;Odd;;;", "TEL:0044"],
    ]


@pytest.mark.parametrize("above", ["sep=;\r\n", "\r\n\r\n", "\ufeffsep=;\n"])
def test_what_stands_above_the_headings_is_passed_over(above: str):
    (card,) = read_table(f"{above}Name;Tel\r\nA;1\r\n".encode())
    assert isinstance(card, Card)
    assert (card.line, read_card(card.data)[:2]) == (above.count("\n") + 2, ("A", ("1",)))


def test_a_row_without_anybody_is_reported_and_the_rest_goes_on():
    table = b"Name,Phone,Notes\r\nAda,1,\r\n,,alone\r\n\r\n,2,\r\n"
    first, second, third = read_table(table)
    assert (first.line, second, third.line) == (2, Skipped(3, NO_CONTACT), 5)
    assert isinstance(third, Card)
    assert read_card(third.data).name == "2"


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"<html>,\n1,2", b"Date,Amount\n1,2\n", b"Name,Price\nTea,2\n", b"Nom;Prix\nThe;2\n", b"\0\xff,\n"],
)
def test_what_is_no_address_book_gives_nothing(data: bytes):
    assert list(read_table(data)) == []


@given(st.binary(max_size=200))
def test_no_table_breaks_the_reader(data: bytes):
    for part in read_table(b"Name,Phone\n" + data):
        assert isinstance(part, Skipped) or read_card(part.data).name


CARDS = [
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ada King\r\nN:King;Ada;Noel;Lady;Jr.\r\nTEL;TYPE=CELL:+1 202 555 0100\r\n"
    b"TEL;TYPE=HOME:+1 202 555 0101\r\nTEL:3\r\nEMAIL:a@example.org\r\nEMAIL:b@example.org\r\nORG:Engines\\, Ltd\r\n"
    b'NICKNAME:Adi\r\nNOTE:two\\nlines\\, "x"\r\nCATEGORIES:Family,Friends\r\nPHOTO;ENCODING=b:AAAA\r\nEND:VCARD',
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:=HYPERLINK(1)\r\nEND:VCARD",
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Choir\r\nKIND:group\r\nEND:VCARD",
]


@pytest.mark.parametrize("layout", ["google", "outlook"])
def test_what_goes_out_comes_back(layout: str):
    table = write_table(CARDS, layout)
    back = [read_card(each.data) for each in read_table(table) if isinstance(each, Card)]
    assert [contact.name for contact in back] == ["Lady Ada Noel King Jr.", "=HYPERLINK(1)"]
    assert set(back[0].numbers) == {"+1 202 555 0100", "+1 202 555 0101", "3"}
    assert back[0].emails == ("a@example.org", "b@example.org")
    assert set(back[0].others) >= {"Adi", "Engines, Ltd", 'two lines, "x"'}
    # A spreadsheet runs nothing of it.
    for row in csv.reader(table.decode().splitlines()):
        assert not any(cell.startswith(("=", "@", "-")) for cell in row)


def test_more_numbers_than_outlook_has_columns_share_the_last():
    numbers = [f"TEL:{n}" for n in range(12)]
    card = "\r\n".join(["BEGIN:VCARD", "VERSION:3.0", "FN:Many", *numbers, "END:VCARD"]).encode()
    (back,) = (read_card(each.data) for each in read_table(write_table([card], "outlook")) if isinstance(each, Card))
    assert set(back.numbers) == {str(n) for n in range(12)}


def test_nobody_makes_a_table_with_headings_alone():
    assert write_table([], "google").count(b"\r\n") == write_table([], "outlook").count(b"\r\n") == 1
