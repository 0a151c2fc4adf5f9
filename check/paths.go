package check

func (c *checker) addPaths(r *Report) {}
