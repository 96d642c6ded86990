"""Put all pages of a folder together."""

import glob

with open("book.txt", "w") as book:
    for path in sorted(glob.glob("pages/*.txt")):
        with open(path) as page:
            book.write(page.read())
