"""Tables, lines and pages that all reports are made of."""
