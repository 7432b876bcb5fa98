"""Members that treat weights as matrices."""
