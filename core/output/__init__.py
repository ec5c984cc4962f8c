"""What leaves the toolchain: marked images, contact sheets, terminal graphics, HTML pages."""
