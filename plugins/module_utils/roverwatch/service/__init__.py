"""One service, whole: its artifact, files, secrets, units, and the proof that it runs."""
