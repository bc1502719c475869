'use strict';
// Sorts a table by a column: a press on its heading, again for the other way round.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener('click', () => {
      const rows = [...body.rows];
      const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
      const numeric = rows.every(row => key(row) === '' || Number.isFinite(Number(key(row))));
      const before = heading.getAttribute('aria-sort');
      const rising = before ? before === 'descending' : !numeric;
      for (const other of headings) other.removeAttribute('aria-sort');
      heading.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (numeric && (x === '') !== (y === '')) return x === '' ? 1 : -1;
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return rising ? order : -order;
      });
      body.append(...rows);
    });
  });
}
// What is folded on the screen is printed in full.
addEventListener('beforeprint', () => {
  for (const folded of document.querySelectorAll('details:not([open])')) {
    folded.open = true;
    folded.dataset.folded = '';
  }
});
addEventListener('afterprint', () => {
  for (const folded of document.querySelectorAll('details[data-folded]')) {
    folded.open = false;
    delete folded.dataset.folded;
  }
});
