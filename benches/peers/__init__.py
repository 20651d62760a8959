"""What people use today, each set up as its documentation recommends for the purpose."""
