export const handler = async (event) => {
  const hold = event.queryStringParameters?.hold;
  if (hold) await new Promise((resolve) => setTimeout(resolve, 1000 * parseFloat(hold)));
  return { message: 'hello' };
};
