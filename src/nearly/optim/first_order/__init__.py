"""Members that step entry by entry, or by one length for all."""
