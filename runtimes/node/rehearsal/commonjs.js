// See rehearse in bootstrap.mjs.
exports.handler = (event, context, callback) => callback(null, event);
