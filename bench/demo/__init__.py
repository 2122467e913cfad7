"""python -m bench.demo: the whole product on images that it draws itself."""
