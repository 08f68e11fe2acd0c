#!/bin/sh
# Draws the PNG icons from mark.svg (needs ImageMagick).
cd "$(dirname "$0")" || exit 1
for size in 16 32 48 128; do
  convert -background none -density 1200 mark.svg -filter Lanczos -resize "${size}x${size}" -strip "PNG32:$size.png"
done
