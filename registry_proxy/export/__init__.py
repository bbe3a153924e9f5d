"""Images written to where others carry them: trees for CVMFS."""
