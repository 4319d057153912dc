"""What can stand behind a DcModel. Each folder is one backend; none imports another."""
