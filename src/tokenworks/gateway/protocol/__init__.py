"""What the protocols say: fields of a request, events and usage of an answer, errors."""
