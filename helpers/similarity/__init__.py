"""Task similarity: measures as functions of plain arrays, and their table over tasks."""
