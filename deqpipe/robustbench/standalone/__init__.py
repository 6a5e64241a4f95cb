"""What is handed out as it stands: files that need torch, and nothing of ours. Each is whole, and imports no other."""
