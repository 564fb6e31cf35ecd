"""One optimizer after another, as one optimizer of torch."""
