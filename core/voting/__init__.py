"""What people prefer: blind pairs of images, the page that shows them, the file of votes, and what the votes say."""
