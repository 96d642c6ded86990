"""DVC's small files, and the records that a history of them is. The bytes that they name are not read here."""
