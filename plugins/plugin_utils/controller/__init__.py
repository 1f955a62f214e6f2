"""What the controller itself must be, and how it speaks to the operator."""
