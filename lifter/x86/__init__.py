"""What is known of x86-64 instructions: encoding layout, the instruction table, lifting."""
