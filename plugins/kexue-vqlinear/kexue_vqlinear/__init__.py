"""Vector quantisation with one linear map (SimVQ), six other quantisers and a code prior."""
