"""What runs inside the virtual machines of tests/vm.py: plain Python, because starting pytest there takes 20 s."""
