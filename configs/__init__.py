"""The configs that come with SPIRAL; installed as `spiral_configs`, so that they are found away from the checkout."""
