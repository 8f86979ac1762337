"""Cards (vCard 2.1, 3.0, 4.0): cut, read and compared; every byte that nobody edits stays. Pure."""

from ipls.contacts.cards.lines import Card, Skipped, join_cards, split_cards
from ipls.contacts.cards.reading import Contact, read_card

__all__ = ["Card", "Contact", "Skipped", "join_cards", "read_card", "split_cards"]
