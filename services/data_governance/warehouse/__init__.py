"""What may be asked of stored versions: queries, differences, exports; and what of the store nobody needs."""
