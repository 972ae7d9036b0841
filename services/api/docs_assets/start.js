"use strict";

// The page's policy forbids inline scripts, hence this file. The URL is relative because a proxy may
// prefix the path. The validator is off because it runs on another site.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayOperationId: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
