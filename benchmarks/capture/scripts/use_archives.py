"""Unpack a zip archive and pack what was in it with tar."""

import tarfile
import zipfile

with zipfile.ZipFile("pages.zip") as pages:
    pages.extractall("unpacked")
with tarfile.open("pages.tar.gz", "w:gz") as packed:
    packed.add("unpacked")
