"""From records to answers: what every decision says of every image, and how sure that is. No torch."""
