"""What the package offers to the tests of projects, and to the authors of stores."""
