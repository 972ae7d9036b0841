"""What an operator needs: health, figures, and moving to another database."""
