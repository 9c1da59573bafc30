"""Read answers out of text: markup, choices, numbers, quantities, boxes. No model, no torch."""
