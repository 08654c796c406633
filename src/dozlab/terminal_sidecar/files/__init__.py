"""The guest's files: list, download, upload, over SFTP."""
