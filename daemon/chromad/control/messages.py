"""What the daemon says over the socket, and those who ask have to know."""

# Why a collection is cold that nobody wanted warm
NOT_CHOSEN = "not in warm.collections"
