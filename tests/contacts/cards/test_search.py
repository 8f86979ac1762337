import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.cards.reading import Contact
from ipls.contacts.cards.search import SearchIndex, number_forms, search_key, second_key


def found(query: str, *names: str) -> list[str]:
    return SearchIndex([(name, Contact(name, ())) for name in names], None).find(query)


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("Álvaro Núñez", ["alvaro nunez", "ÁLVARO", "nunez alvaro", "lvar", "ALVARO  NUÑEZ "]),
        ("Łukasz Żak", ["lukasz zak", "łuk", "żak"]),
        ("İstanbul Yıldız", ["istanbul", "yildiz", "İSTANBUL"]),
        ("Đặng Thị", ["dang thi", "đặng"]),
        ("Søren Ørsted", ["soren orsted", "Ørsted"]),
        ("Ægir Þór Guðmundsson", ["aegir thor gudmundsson", "aegir"]),
        ("Ёлка", ["елка", "ЁЛКА", "elka"]),
        ("Ελένη Κόκκινου", ["ελενη", "ΚΟΚΚΙΝΟΥ", "eleni"]),
        ("שָׁלוֹם", ["שלום"]),
        ("مُحَمَّد علي", ["محمد"]),
        ("देवी", ["देव", "devi"]),
        ("Ｔａｒｏ Abe", ["taro"]),
        ("Zoe\u0308", ["zoë", "zoe"]),
        ("Noor Had\u00addad", ["haddad"]),
        ("Ben\u200bjamin\ufeff", ["benjamin"]),
        ("Siobhán O’Neill", ["oneill", "o'neill", "O’Neill"]),
        ("Jean-Luc Picard", ["jean-luc", "luc jean", "jeanluc"]),
        ("Jörg Müller", ["muller", "Mueller", "müller"]),
        ("Mueller", ["Müller"]),
        ("Groß", ["gross", "GROSS"]),
        ("山田 太郎", ["山田", "田 太", "太郎 山"]),
        ("Nina 🚀", ["🚀"]),
        ("Werkstatt: Südring (Halle; Tor 2)", ["werkstatt: s", "halle; tor", "tor 2"]),
    ],
)
def test_a_name_is_found_as_people_type_it(name: str, queries: list[str]):
    for query in queries:
        assert found(query, name, "Nobody Else") == [name], query


@pytest.mark.parametrize(
    ("name", "query"),
    [("राम कुमार", "रम"), ("が", "か"), ("Imre Halasz", "halasz ime"), ("Ada", "ada b")],
)
def test_other_letters_are_other_letters(name: str, query: str):
    assert found(query, name) == []


def test_what_fits_best_comes_first_then_by_name():
    names = ["Juan Ana", "Ana", "Mariana", "ANA", "Ána", "Ana B", "Anabel", "Banana", "Åna"]
    assert found("Ana", *names) == ["Ana", "ANA", "Ána", "Åna", "Ana B", "Anabel", "Juan Ana", "Banana", "Mariana"]
    assert found("mueller", "Müller", "Amueller", "Mueller") == ["Mueller", "Amueller", "Müller"]
    assert found("", "b", "a") == ["a", "b"]
    index = SearchIndex([(name, Contact(name, ())) for name in names], None)
    assert index.find("ana", 3) == index.find("ana")[:3]


def test_all_that_is_said_of_somebody_is_searched():
    chief = Contact(
        "The Chief", ("+1 202 555 0100",), ("n.okafor@example.org",), ("Ngozi Okafor", "Harbour, Night Watch")
    )
    index = SearchIndex([(1, chief), (2, Contact("Somebody", ("+1 202 555 0199",)))], None)
    for query in ("okafor ngozi", "night watch", "n.okafor@", "chief 0100", "okafor example", "chief +1(202)"):
        assert index.find(query) == [1], query


NUMBERS = {
    "+1 (202) 555-0143": [
        "+1 (202) 555-0143",
        "202-555-0143",
        "2025550143",
        "555-0143",
        "0012025550143",
        "tel:+12025550143",
    ],
    "(202) 555-0190": ["(202) 555-0190", "+12025550190", "001 202 555 0190", "1-202-555-0190"],
    "+49 (0)30 23125-101": ["+49 (0)30 23125-101", "+493023125101", "030 23125101", "0049 30 23125 101"],
    "07700 900461": ["+447700900461", "07700900461", "7700 900461", "0044 (0)7700 900461", "44 7700 900461"],
    "0044 7700 900463": ["+44 7700 900463", "07700 900463"],
    "+447700900462": ["07700900462", "0044 7700 900462", "447700900462", "\u202a+44\u00a07700\u2011900462\u202c"],
    "٠٢٠ ٧٩٤٦ ٠٩٥٥": ["020 7946 0955", "02079460955", "٠٢٠٧٩٤٦"],
    "020 7946 0911": ["٠٢٠ ٧٩٤٦ ٠٩١١", "０２０７９４６０９１１"],
    "*102#": ["*102#", "102"],
    "1-800-FLOWERS": ["1-800-flowers", "1800FLOWERS", "flowers"],
    "+1 202 555 0125,,4711#": ["+1 202 555 0125,,4711#", "+12025550125", "4711"],
    "tel:+1-202-555-0119;ext=41": ["+12025550119", "+1-202-555-0119"],
}


@pytest.mark.parametrize(("number", "queries"), NUMBERS.items())
@pytest.mark.parametrize("country", [None, "GB", "US"])
def test_a_number_is_found_by_any_spelling(number: str, queries: list[str], country: str | None):
    others = [("other", Contact("Else", ("+33 1 99 00 00 33",)))]
    index = SearchIndex([*others, ("this", Contact("Name", (number,)))], country)
    for query in queries:
        assert index.find(query) == ["this"], query


def test_the_whole_number_comes_before_parts_of_it():
    people = [("part", Contact("A", ("+44 7700 9004610",))), ("whole", Contact("B", ("07700 900461",)))]
    assert SearchIndex(people, "GB").find("+44 7700 900461") == ["whole", "part"]


@pytest.mark.parametrize("query", ["\x02", "\x1f", "ada \x02", " ".join(f"q{n}z" for n in range(3000))])
def test_a_query_of_control_characters_or_of_very_many_words_is_one(query: str):
    contacts = [Contact("Ada King", (), (), (" ".join(f"q{n}z" for n in range(3000)),))]
    assert SearchIndex(enumerate(contacts), None).find(query) == [0]


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=20), max_size=4))
def test_a_text_finds_itself(query: str, others: list[str]):
    contacts = [(name, Contact(name, (name,))) for name in {query, *others}]
    assert query in SearchIndex(contacts, "US").find(query)


@given(st.text(max_size=20))
def test_a_key_is_its_own_key(text: str):
    assert search_key(search_key(text)) == search_key(text)
    assert second_key(text).isascii() or not second_key(text)
    number_forms(text, None)
