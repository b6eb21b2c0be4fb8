"""What a network is worth: counted, checked against its budget, drawn and written down."""
