"""Let the shell sort and count."""

import subprocess

subprocess.run("sort sheep.csv | uniq > sorted.csv", shell=True, check=True)
subprocess.run("wc -l < barns.csv > count.txt", shell=True, check=True)
