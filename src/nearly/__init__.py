"""Nearly: replace something expensive by something cheap, with a certificate that says how nearly."""
