"""Models of others: loaded, checked, attacked within a time budget, and a card of what came of it."""
