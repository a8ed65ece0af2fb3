"""A node measures itself: processor, memory, power, temperature, battery, carbon intensity."""
