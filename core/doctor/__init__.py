"""The dataset doctor: reads what people have, finds what is wrong with it, mends it and shows what is trained."""
