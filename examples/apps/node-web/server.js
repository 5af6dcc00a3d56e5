// Says which job answered. PORT is where to listen; Flynn sets it and the FLYNN_ variables.
const http = require("http");
const os = require("os");
const ms = require("ms");

const job = process.env.FLYNN_JOB_ID || "no job";
const host = process.env.FLYNN_HOST_ID || os.hostname();
const started = Date.now();

const server = http.createServer((request, response) => {
  response.setHeader("Content-Type", "text/plain; charset=utf-8");
  response.end(
    `Hello from node-web\nhost ${host}\njob ${job}\npath ${request.url}\nup ${ms(Date.now() - started)}\n`,
  );
});

server.listen(Number(process.env.PORT || 8080), "0.0.0.0", () => {
  console.log(`listening on port ${server.address().port}`);
});

process.on("SIGTERM", () => {
  // Routers take a moment to learn that we are going: serve on until they have.
  setTimeout(() => {
    server.close(() => process.exit(0));
    setTimeout(() => process.exit(0), 10000).unref();
  }, 1000);
});
