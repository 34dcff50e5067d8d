export const handler = async (event, context) => {
  console.log('node was asked for', event.name);
  if (event.name === 'nobody') throw new TypeError('nobody is not a name');
  return { greeting: `Hello, ${event.name}!`, version: context.functionVersion, left: context.getRemainingTimeInMillis() };
};
