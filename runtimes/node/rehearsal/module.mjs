// See rehearse in bootstrap.mjs.
export const handler = async (event) => event;
