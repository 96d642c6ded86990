"""Ask one database, and fill another."""

import sqlite3

rows = sqlite3.connect("herd.db").execute("SELECT name, weight FROM sheep").fetchall()
report = sqlite3.connect("report.db")
report.execute("CREATE TABLE heavy (name, weight)")
report.executemany("INSERT INTO heavy VALUES (?, ?)", [row for row in rows if row[1] > 50])
report.commit()
