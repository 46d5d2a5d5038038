"""What people see of a run: the live view, the texts at its end, and its HTML form."""
