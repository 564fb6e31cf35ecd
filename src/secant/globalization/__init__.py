"""How far to trust a model: line searches and trust regions."""
