// Stands in for zarrita and its decoders (1.4 MB), with which NiiVue reads Zarr, which the page never does.
export const FetchStore = null, get = null, open = null, root = null;
