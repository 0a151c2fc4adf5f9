//go:build linux && long

package report_test

// matrix is the full product of profile, csum, compression and node size, with
// the features in rotation, besides what every run tests.
func matrix() []image {
	all := pairwise()
	for _, profile := range profiles {
		for _, csum := range csums {
			for _, alg := range compress {
				for _, size := range nodeSizes {
					all = append(all, withFeature(image{profile: profile, csum: csum, compress: alg, nodeSize: size}, len(all)*3/2))
				}
			}
		}
	}
	return all
}

// logSeeds is how many random histories an unclean log is made from.
const logSeeds = 100
