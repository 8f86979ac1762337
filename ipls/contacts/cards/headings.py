"""Headings of Outlook's tables in other languages than English.

In German, French, Spanish, Italian, Portuguese (of Portugal, and of Brazil) and Dutch, as Microsoft Exchange's own
import of these tables knows them (`OutlookCsvLanguageSelect`); German, French and Dutch as Open-Xchange's does, too
(`importCSV/outlook2007.*.properties`, `FrenchOutlookMapper`).

Tested by tests/contacts/cards/test_tables.py.
"""

import re

_LANGUAGES = {
    "title": "Anrede|Titolo|Tratamento|Título|Titel",
    "first name": "Vorname|Prénom|Nombre|Nome|Primeiro nome|Voornaam",
    "middle name": "Weitere Vornamen|Deuxième prénom|Segundo nombre|Secondo nome|Segundo nome|Outros nomes/apelidos"
    "|Middelste naam",
    "last name": "Nachname|Nom|Apellidos|Cognome|Sobrenome|Apelido|Achternaam",
    "suffix": "Suffixe|Titolo straniero|Sufixo|Achtervoegsel",
    "company": "Firma|Société|Organización|Società|Empresa|Bedrijf",
    "department": "Abteilung|Service|Reparto|Departamento|Afdeling",
    "job title": "Position|Titre|Puesto|Posizione|Cargo|Functie",
    "birthday": "Geburtstag|Anniversaire|Compleanno|Data de nascimento|Verjaardag",
    "notes": "Notizen|Anotações|Notas|Notities",
    "categories": "Kategorien|Catégories|Categorías|Categorie|Categorias|Categorieën",
    "web page": "Webseite|Page Web|Página web|Pagina Web|Página na Web|Página da Web|Webpagina",
    "e-mail address": "E-Mail-Adresse|Adresse de messagerie|Adresse de courrier|Indirizzo posta elettronica"
    "|Endereço de correio electrónico|E-mailadres",
    "e-mail 2 address": "E-Mail 2: Adresse|Adresse de messagerie 2|Adresse de courrier 2"
    "|Dirección de correo electrónico 2|Indirizzo posta elettronica 2|Endereço do correio electrónico 2"
    "|Endereço de email 2|E-mailadres 2",
    "e-mail 3 address": "E-Mail 3: Adresse|Adresse de messagerie 3|Adresse de courrier 3"
    "|Dirección del correo electrónico 3|Indirizzo posta elettronica 3|Endereço do correio electrónico 3"
    "|Endereço de email 3|E-mailadres 3",
    "mobile phone": "Mobiltelefon|Tél. mobile|Cellulare|Telefone celular|Telemóvel|Mobiele telefoon",
    "business phone": "Telefon geschäftlich|Téléphone (bureau)|Teléfono del trabajo|Ufficio|Telefone comercial"
    "|Telefone da empresa|Telefoon op werk",
    "business phone 2": "Téléphone 2 (bureau)|2º telefone da empresa",
    "home phone": "Telefon privat|Téléphone (domicile)|Particular|Abitazione|Telefone residencial"
    "|Telefone da residência|Telefoon thuis",
    "home phone 2": "Téléphone 2 (domicile)|2º telefone da residência",
    "other phone": "Weiteres Telefon|Téléphone (autre)|Otro teléfono|Altro telefono|Outro telefone|Andere telefoon",
    "primary phone": "Haupttelefon|Téléphone principal|Teléfono principal|Telefono principale|Telefone principal"
    "|Hoofdtelefoon",
    "company main phone": "Telefon Firma|Téléphone société|Número de centralita de la organización"
    "|Telefono principale società|Telefone principal da empresa|Hoofdtelefoon bedrijf",
    "assistant's phone": "Telefon Assistent|Téléphone de l'assistant(e)|Telefono assistente|Telefone do assistente"
    "|Telefoon assistent",
    "car phone": "Autotelefon|Téléphone (voiture)|Telefono auto|Telefone do carro|Autotelefoon",
    "pager": "Récepteur de radiomessagerie|Cercapersone",
    "business fax": "Fax geschäftlich|Télécopie (bureau)|Fax (uff.)|Fax comercial|Fax da empresa|Fax op werk",
    "home fax": "Fax privat|Télécopie (domicile)|Fax (ab.)|Fax residencial|Fax da residência|Fax thuis",
    "other fax": "Weiteres Fax|Télécopie (autre)|Otro fax|Altro fax|Outro fax|Andere fax",
    "business street": "Straße geschäftlich|Rue (bureau)|Calle del trabajo|Via (uff.)|Rua da empresa"
    "|Rua do endereço comercial|Werkadres, straat",
    "business street 2": "Werkadres 2, straat",
    "business street 3": "Werkadres 3, straat",
    "business city": "Ort geschäftlich|Ville (bureau)|Ciudad de trabajo|Città (uff.)|Localidade da empresa"
    "|Werkadres, plaats",
    "business state": "Region geschäftlich|Dép/Région (bureau)|Provincia o estado de trabajo|Provincia (uff.)"
    "|Distrito da empresa|Werkadres, provincie",
    "business postal code": "Postleitzahl geschäftlich|Code postal (bureau)|Código postal del trabajo|CAP (uff.)"
    "|Código postal da empresa|Werkadres, postcode",
    "business country": "Land/Region geschäftlich|Pays/Région (bureau)|Pays (bureau)|País o región del trabajo"
    "|Paese (uff.)|País/Região da Empresa|Land/regio (werk)",
    "home street": "Straße privat|Rue (domicile)|Via (ab.)|Rua da residência|Endereço residencial|Huisadres, straat",
    "home city": "Ort privat|Ville (domicile)|Città (ab.)|Localidade da residência|Cidade do endereço residencial"
    "|Huisadres, plaats",
    "home state": "Bundesland/Kanton privat|Dép/Région (domicile)|Provincia (ab.)|Distrito da residência"
    "|Huisadres, provincie",
    "home postal code": "Postleitzahl privat|Code postal (domicile)|CAP (ab.)|Código postal da residência"
    "|CEP do endereço residencial|Huisadres, postcode",
    "home country": "Land/Region privat|Pays/Région (domicile)|Pays (domicile)|País o región del domicilio|Paese (ab.)"
    "|País da Residência/Região|País/Região de Residência|Land/regio (thuis)",
    "other street": "Weitere Straße|Rue (autre)|Otra calle|Altra via|Rua do outro endereço|Outro endereço"
    "|Ander adres, straat",
    "other city": "Weiterer Ort|Ville (autre)|Otra ciudad|Altra città|Localidade do outro endereço|Ander adres, plaats",
    "other state": "Weiteres/r Bundesland/Kanton|Dép/Région (autre)|Otra provincia o estado|Altra provincia"
    "|Distrito do outro endereço|Outro Estado|Ander adres, provincie",
    "other postal code": "Weitere Postleitzahl|Code postal (autre)|Otro código postal|Altro CAP"
    "|Código postal do outro endereço|Ander adres, postcode",
    "other country": "Weiteres/e Land/Region|Pays/Région (autre)|Pays (autre)|Otro país o región|Altro paese"
    "|Outro País/Região|Land/regio (anders)",
    # What Outlook always writes, and nobody typed.
    "e-mail type": "E-Mail-Typ|E-Mail 2: Typ|E-Mail 3: Typ|Type de messagerie|Type de courrier"
    "|Tipo de correo electrónico|Tipo posta elettronica|Tipo de correio electrónico|Tipo de email|E-mailtype",
    "e-mail display name": "E-Mail: Angezeigter Name|E-Mail 2: Angezeigter Name|E-Mail 3: Angezeigter Name"
    "|Nom complet de l'adresse de messagerie|Nom complet de l'adresse de courrier"
    "|Nombre de pantalla de correo electrónico|Nome visualizzato posta elettronica"
    "|Nome a apresentar para o correio electrónico|Nome para exibição do email|Weergavenaam voor e-mail"
    "|E-mail, weergegeven naam",
    "priority": "Priorität|Priorité|Prioridad|Priorità|Prioridade|Prioriteit",
    "private": "Privat|Privé",
    "sensitivity": "Vertraulichkeit|Critère de diffusion|Confidencialidad|Riservatezza|Confidencialidade|Sensibilidade"
    "|Gevoeligheid",
    "initials": "Initialen|Initiales|Iniziali|Iniciais",
    "gender": "Geschlecht|Sexe|Género|Sesso|Sexo|Geslacht",
}
_IN_ENGLISH = {
    heading.casefold(): english for english, headings in _LANGUAGES.items() for heading in headings.split("|")
}
_NUMBERED = re.compile(r"(.*) \(?([23])\)?")
TELL_LITTLE = frozenset({"nom", "nombre", "nome", "ufficio", "particular", "abitazione"})
"""Headings that tables of anything may have."""


def in_english(heading: str) -> str:
    """What English Outlook calls this column; the heading itself if it is none of these. Both in casefolded letters."""
    if heading in _IN_ENGLISH:
        return _IN_ENGLISH[heading]
    found = _NUMBERED.fullmatch(heading)
    return f"{_IN_ENGLISH[found[1]]} {found[2]}" if found and found[1] in _IN_ENGLISH else heading
