"""Templates of `spiral launch`, installed as `spiral_launch`."""
